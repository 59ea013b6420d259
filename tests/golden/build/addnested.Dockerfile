FROM BASE
ADD . /all/
ADD arc.tar.g* /wild/
