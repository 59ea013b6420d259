FROM BASE
COPY ["sp ace.txt", "/dst dir/"]
