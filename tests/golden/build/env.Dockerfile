FROM BASE
ARG A=1
ENV B=$A C="q u" D='$A'
RUN echo $A $B "$C" $D > /e; env | sort | grep -v HOSTNAME > /env
ENV PATH=/x:$PATH
LABEL a="$B" b='c d'
EXPOSE 80 81/udp 9000-9002
VOLUME /v1 /v2
STOPSIGNAL SIGUSR1
ENTRYPOINT ["/e"]
CMD x y
